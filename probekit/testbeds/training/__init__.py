"""What the testbeds' recipes share: a loop that goes on where it was stopped, Muon, and a small GPT-2."""
