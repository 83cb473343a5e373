// What operations are written with.
#pragma once

#include "operation.hpp"

#include <dmaflow/error.hpp>

#include <functional>
#include <type_traits>
#include <utility>

namespace bench {

/// The value, or the end of the program.
template <typename T>
T must(dmaflow::Result<T> result) {
  if (!result) give_up(result.error().message());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Calls it so many times, inlined: the way into it is not what is measured.
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
