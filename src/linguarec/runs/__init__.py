"""The run folder: settings, results, tables on the screen."""
