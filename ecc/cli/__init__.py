"""The face: arguments → one call of the api → text or one JSON object."""
