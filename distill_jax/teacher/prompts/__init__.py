"""What the teacher is asked, and how its replies are parsed."""
