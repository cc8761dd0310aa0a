"""What a generator gives: images, sounds or clips; how each is shown, stored, converted and measured. See README.md."""
