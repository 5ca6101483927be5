"""Reading codes: what a code or latent stands for, from the inverted index of a described dictionary. Starts without torch."""
