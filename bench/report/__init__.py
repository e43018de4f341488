"""What a run found, as Markdown, HTML and plots."""
