#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a test file with pytest, and says why where a package that it needs is not installed.

    run.py FILE [PACKAGE ...]

Exit code 77: a package is not installed.
"""
import importlib.util
import sys

missing = [package for package in ("pytest", *sys.argv[2:]) if importlib.util.find_spec(package) is None]
if missing:
    print(f"skipped: {', '.join(missing)} not installed")
    sys.exit(77)

import pytest  # noqa: E402

sys.exit(pytest.main(["-q", "-rs", "-p", "no:cacheprovider", sys.argv[1]]))
