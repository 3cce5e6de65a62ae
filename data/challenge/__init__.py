"""What the challenges exchange: prediction and truth files, questions, names of action units."""
