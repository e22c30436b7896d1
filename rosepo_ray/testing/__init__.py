"""What every kind at a seam must keep, as test classes that a new kind inherits, inside this project or outside it.

    class TestMine(ObjectiveContract):
        settings = Mine(type="my_package.losses:Mine")

Only pytest collects them, so only their test functions need it.
"""
