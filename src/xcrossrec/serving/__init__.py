"""The service: a catalogue on disk, an HTTP API and a page."""
