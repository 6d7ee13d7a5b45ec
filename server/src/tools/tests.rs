//! Parsers against transcripts in each format, cut in all kinds of ways.
