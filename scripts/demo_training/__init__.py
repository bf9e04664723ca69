"""How the small bundled model is made: corpus -> tokenizer -> static vectors -> decoder."""
