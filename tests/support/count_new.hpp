// Replaces operator new by one that counts, for the whole program. Include it in one file of a program only.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace dmaflow::test {
inline std::atomic<std::size_t> allocations{0};  ///< by this program, in all its threads
}

// Not inlined: otherwise GCC 12 sees free() called for memory from new.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++dmaflow::test::allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  std::abort();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  ++dmaflow::test::allocations;
  return std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*size*/) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept { std::free(memory); }
