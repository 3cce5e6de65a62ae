"""What people look at: drawing, pages and pictures of stages."""
