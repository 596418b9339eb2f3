"""The Faust application: events in, explained alerts out. Start reading at app.py and agents/."""
