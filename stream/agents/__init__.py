"""One pipeline per file, each reading top to bottom: reviews and chats (texts.py), clicks, fusion."""
