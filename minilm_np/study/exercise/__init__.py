"""The encoder with holes: what a student gets, the cases that each hole is tested with, and known wrong answers.

instructions.md    README.md of the folder that `minilm-np exercise` writes
skeleton.py        encoder.py of this folder
holes.py           each hole with its right answer and the cases that it is tested with
wrong_answers.py   a hole with any mistake built in: crosscheck's catalogue, and mistakes that only beginners make
child.py           the process that runs a student's file
"""
