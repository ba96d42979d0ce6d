"""The command line: parsing, help and exit codes. A verb's code is loaded after its arguments are parsed."""
