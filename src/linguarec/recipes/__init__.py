"""What a person does: one plain function a command."""
