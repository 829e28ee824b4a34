# SPDX-License-Identifier: Apache-2.0
"""Fuzz targets of what Python decodes, and the run of all targets, the native ones as well: see __main__.py.

A target is a function of targets.py that makes something ready and returns another, which takes dice, makes one
input of them and hands it to the decoder. Whatever that raises beyond what it may is a finding, and so is what an
oracle says of what it returned. Inputs begin as good ones and are changed in their structure (mutate.py), so that
what lies behind checksums and syntax is reached at once. One seed and one number of a round give one input again.
"""
