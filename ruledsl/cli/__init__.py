"""The commands of `ruledsl`, one per file. A file is imported when its command is called."""
