// An array that allocates only when it is long.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <span>

namespace dmaflow::detail {

/// @p count default values; converts to false if there was no memory for them.
template <typename T>
class Few {
 public:
  static constexpr std::size_t most = 17;  // sixteen points and a Cancel

  explicit Few(std::size_t count) noexcept : count_(count) {
    if (count > most) many_.reset(new (std::nothrow) T[count]());
  }
  explicit operator bool() const noexcept { return count_ <= most || many_ != nullptr; }
  [[nodiscard]] std::span<T> span() noexcept { return {count_ <= most ? few_.data() : many_.get(), count_}; }

 private:
  std::size_t count_;
  std::array<T, most> few_{};
  std::unique_ptr<T[]> many_;
};

}  // namespace dmaflow::detail
