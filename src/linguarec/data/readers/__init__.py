"""Source files to a log and a catalogue."""
