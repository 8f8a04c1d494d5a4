"""The commands: arguments in, one call, result out."""
