// A queue of fixed size, so that nothing is allocated while streaming.
#pragma once

#include <array>
#include <cstddef>

namespace dmaflow::kms {

/// First in, first out; a push into a full ring drops the oldest.
template <typename T, std::size_t size>
class Ring {
 public:
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] const T& front() const noexcept { return items_[first_]; }
  void pop() noexcept {
    first_ = (first_ + 1) % size;
    --count_;
  }
  /// The element to be filled in.
  T& push() noexcept {
    if (count_ == size) pop();
    return items_[(first_ + count_++) % size];
  }

 private:
  std::array<T, size> items_{};
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

}  // namespace dmaflow::kms
