"""What mteb calls: encoders, searches, systems over stored vectors."""
