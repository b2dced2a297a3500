"""What the phases are built on: run context, students, conversations, training loop, export."""
