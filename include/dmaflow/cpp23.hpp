// Reports in one error what the headers need if a compiler or its standard library lacks it. Every public header
// includes this one before any header of the standard library.
#pragma once

#if __has_include(<version>)
#include <version>
#endif

#if __cplusplus <= 202002L || !defined(__cpp_lib_expected) || !defined(__cpp_concepts)
// Compilers continue after #error and would report errors in every following line. A missing include file stops them,
// and its name is the one error that they print.
#include "dmaflow needs C++23: -std=c++23 with GCC 12, or with Clang 19 and libstdc++ 12 or libc++ 19, or newer ones"
#endif
