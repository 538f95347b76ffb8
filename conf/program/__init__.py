"""The program that reads the configuration: settings, stages, run folders. Nobody imports from here."""
