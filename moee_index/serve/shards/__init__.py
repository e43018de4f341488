"""An index whose segments other servers hold, searched as one: the head's side."""
