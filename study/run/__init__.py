"""One run: data, model and method in, a result out."""
