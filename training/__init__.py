"""Training of the text model: data readers, model, trainer, evaluation. Nothing here runs in the shop."""
