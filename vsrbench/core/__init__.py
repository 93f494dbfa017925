"""What everything else stands on: types, errors, identity, environment, progress."""
