// Helpers for writing operations.
#pragma once

#include "operation.hpp"

#include <dmaflow/error.hpp>

#include <functional>
#include <type_traits>
#include <utility>

namespace bench {

/// Returns the value, or ends the program if there is an error.
template <typename T>
T must(dmaflow::Result<T> result) {
  if (!result) give_up(result.error().message());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Calls it the given number of times, inlined, so that the cost of the call itself is not measured.
template <typename Once>
struct Repeated {
  Once once;
  [[gnu::flatten]] void operator()(int times) const {
    for (int i = 0; i < times; ++i) once();
  }
};

template <typename Once>
std::function<void(int)> repeat(Once once) {
  return Repeated<Once>{std::move(once)};
}

}  // namespace bench
