"""Text -> syntax tree, and back: grammar.lark, lexer, parser, tree, printer and formatter."""
