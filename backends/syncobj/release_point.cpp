// A promise that is kept at the latest when it is destroyed.
#include "syncobj.hpp"

#include "log.hpp"

namespace dmaflow {

ReleasePoint& ReleasePoint::operator=(ReleasePoint&& other) noexcept {
  if (this != &other) {
    keep();
    point_ = std::exchange(other.point_, {});
  }
  return *this;
}

Result<void> ReleasePoint::signal() noexcept {
  auto result = point_.signal();
  if (result) point_ = {};
  return result;
}

Result<void> ReleasePoint::signal_with(const Fence& fence) noexcept {
  auto result = point_.import_fence(fence);
  if (result) point_ = {};
  return result;
}

void ReleasePoint::keep() noexcept {
  if (!point_) return;
  // If this or a later point is submitted already, nobody waits for us, and a value out of order would confuse queries.
  const bool submitted = point_.value() != 0 && point_.wait(Deadline::immediate(), {.available = true});
  if (submitted) {
    point_ = {};
    return;
  }
  if (const auto result = point_.signal(); !result) {
    const auto operation = result.error().operation();
    detail::log(LogLevel::warning, "a promised point was not signalled: %.*s: errno %d",
                static_cast<int>(operation.size()), operation.data(), result.error().code());
  }
  point_ = {};
}

}  // namespace dmaflow
