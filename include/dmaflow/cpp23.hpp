// Says in one error what the headers need, where a compiler or its standard library has less. Every public header
// includes this one before anything of the standard library.
#pragma once

#if __has_include(<version>)
#include <version>
#endif

#if __cplusplus <= 202002L || !defined(__cpp_lib_expected) || !defined(__cpp_concepts)
#error \
    "dmaflow needs C++23: -std=c++23 with GCC 12 or newer, or Clang 19 or newer with libstdc++ 12 or libc++ 19 or newer"
// Compilers go on after #error, and would complain of every line that follows. A file that does not exist stops them.
#include <dmaflow/stop-without-cpp23>
#endif
