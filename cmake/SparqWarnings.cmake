# SPDX-License-Identifier: MIT

# sparq_enable_warnings(<target>): the warnings that this project's own code is free of, as
# errors with SPARQ_WARNINGS_AS_ERRORS. Never put on the target sparq: a user chooses his own.
function(sparq_enable_warnings target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wsign-conversion
    $<$<BOOL:${SPARQ_WARNINGS_AS_ERRORS}>:-Werror>)
endfunction()
