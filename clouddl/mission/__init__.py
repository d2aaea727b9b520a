"""What a mission does around the study: before launch, first labels, quality for life."""
