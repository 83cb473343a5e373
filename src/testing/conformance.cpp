#include "conformance.hpp"

#include "sys/sys.hpp"

#include <array>
#include <cerrno>
#include <filesystem>

namespace dmaflow::testing {

std::string Findings::text() const {
  std::string text;
  for (const std::string& line : broken) text += line + "\n";
  return text;
}

namespace {

std::size_t open_descriptors() {
  std::error_code error;
  std::size_t count = 0;
  for (auto entry = std::filesystem::directory_iterator("/proc/self/fd", error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    ++count;
  }
  return count;
}

}  // namespace

Check::Check(std::string_view name) : name_(name), descriptors_(open_descriptors()) {}

Findings Check::take() && {
  const auto now = open_descriptors();
  that(now <= descriptors_, "left " + std::to_string(now - descriptors_) + " descriptors open");
  return std::move(findings_);
}

bool Check::that(bool kept, const std::string& promise) {
  if (!kept && !is_hopeless()) findings_.broken.push_back(name_ + ": " + promise);
  return kept;
}

bool Waiter::turn(Deadline deadline) {
  if (*provoke_) (*provoke_)();
  const auto wake = object_->wake_by();
  const short events = object_->poll_events();
  std::array<pollfd, 2> polls{{{.fd = events != 0 ? object_->poll_fd() : -1, .events = events, .revents = 0},
                               {.fd = object_->waiting_fence(), .events = POLLIN, .revents = 0}}};
  const auto until = wake ? std::min(wake->time(), deadline.time()) : deadline.time();
  const bool was_due = wake && wake->remaining() == Deadline::Clock::duration::zero();
  const int ready = sys::wait(polls, Deadline::at(until));
  if (ready < 0) return check_->that(false, "its descriptor cannot be waited for: errno " + std::to_string(-ready));
  const bool is_due = wake && wake->remaining() == Deadline::Clock::duration::zero();
  if (ready == 0 && !is_due) return false;
  ++fruitless_;
  if (fruitless_ == most_fruitless) {
    check_->that(false, "asked for attention " + std::to_string(most_fruitless) +
                            " times in a row without anything new, " +
                            (was_due ? "by a wake_by() that stays in the past"
                                     : (polls[0].revents != 0 ? "by a descriptor that stays ready" : "by its fence")));
  }
  if (fruitless_ >= most_fruitless) return false;
  return check_->succeeded(object_->dispatch(polls[0].revents), "dispatch()");
}

Result<std::vector<Buffer>> make_buffers(Allocator& allocator, const StreamConfig& config, Usage usage,
                                         std::uint32_t count) {
  return allocator.allocate({.size = config.layout.size,
                             .format = config.layout.format,
                             .modifiers = {config.layout.modifier},
                             .opaque_bytes = config.layout.opaque_bytes,
                             .usage = usage,
                             .count = count,
                             .constraints = config.constraints});
}

}  // namespace dmaflow::testing
