"""The session with the control plane: registration, ACS, role credentials, submission of state changes."""
