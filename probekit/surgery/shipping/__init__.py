"""An edit as a file, the edited model as a folder, and the way back."""
