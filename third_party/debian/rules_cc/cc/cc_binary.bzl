"""cc_binary, as current rules_cc names its file."""

def cc_binary(**kwargs):
    native.cc_binary(**kwargs)
