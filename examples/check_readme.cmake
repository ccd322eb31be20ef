# SPDX-License-Identifier: MIT
# Fails unless README holds EXAMPLE, all but its licence line, as a block of C++.
cmake_minimum_required(VERSION 3.23)
file(READ "${README}" readme)
file(READ "${EXAMPLE}" example)
string(REGEX REPLACE "^// SPDX[^\n]*\n" "" example "${example}")
string(FIND "${readme}" "```cpp\n${example}```" position)
if(position EQUAL -1)
  message(FATAL_ERROR "${README} does not show ${EXAMPLE} as it is")
endif()
