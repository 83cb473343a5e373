// Shared by both checks: the findings, the buffers, and the loop as device.hpp describes it.
#pragma once

#include <dmaflow/testing/conformance.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace dmaflow::testing {

/// Buffers in addition to those that the object keeps for itself.
inline constexpr std::uint32_t spare_buffers = 2;

class Check {
 public:
  /// Counts the open descriptors of the process.
  explicit Check(std::string_view name);

  /// Notes a broken promise unless @p kept. Returns @p kept.
  bool that(bool kept, const std::string& promise);
  /// The same for a call that must succeed.
  template <typename T>
  bool succeeded(const Result<T>& result, const std::string& call) {
    return that(result.has_value(), result ? call : call + " fails: " + result.error().message());
  }
  /// True once too much is broken to continue.
  [[nodiscard]] bool is_hopeless() const noexcept { return findings_.broken.size() > 20; }
  /// The findings, including the descriptors that are open now but were not at the beginning.
  [[nodiscard]] Findings take() &&;

 private:
  std::string name_;
  std::size_t descriptors_;
  Findings findings_;
};

/// Waits for one object as the loop does, and detects an object that asks for attention endlessly.
class Waiter {
 public:
  Waiter(Check& check, Pollable& object, const std::function<void()>& provoke)
      : check_(&check), object_(&object), provoke_(&provoke) {}

  /// One iteration: waits until @p deadline at most, then calls dispatch(). False at the deadline, or if there was
  /// nothing to wait for.
  bool turn(Deadline deadline);
  /// To be called when an iteration brought something new.
  void note_news() noexcept { fruitless_ = 0; }

 private:
  static constexpr int most_fruitless = 100;
  Check* check_;
  Pollable* object_;
  const std::function<void()>* provoke_;
  int fruitless_ = 0;  // consecutive iterations that ended at once and brought nothing
};

/// @p count buffers for @p config.
[[nodiscard]] Result<std::vector<Buffer>> make_buffers(Allocator& allocator, const StreamConfig& config, Usage usage,
                                                       std::uint32_t count);

}  // namespace dmaflow::testing
