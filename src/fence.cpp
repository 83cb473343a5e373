#include <dmaflow/fence.hpp>

#include "cancellable.hpp"
#include "uapi/sync_file.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

namespace dmaflow {
namespace {

Error unreadable(int error, int fd) noexcept {
  return Error::os(error, "SYNC_IOC_FILE_INFO").detail("descriptor %d", fd);
}

/// The kernel's own summary, without the parts: status 0 while any part is active. One call.
Result<sync_file_info> summary_of(int fd) noexcept {
  sync_file_info info{};
  if (const int result = sys::ioctl(fd, SYNC_IOC_FILE_INFO, &info); result < 0) {
    return std::unexpected(unreadable(-result, fd));
  }
  return info;
}

/// The parts of a sync_file. The built-in array is large enough for nearly every fence. It is not initialised, because
/// the kernel writes what is read.
class Parts {
 public:
  Parts() noexcept {}  // NOLINT(modernize-use-equals-default,cppcoreguidelines-pro-type-member-init): 1280 bytes saved

  /// One call if the parts fit; three if there are more.
  Result<std::span<const sync_fence_info>> read(int fd) noexcept {
    auto count = fill(fd, some_);
    if (count >= 0) return std::span(some_).first(static_cast<std::size_t>(count));
    while (count == -EINVAL) {  // more than fit; repeated if their number has grown since they were counted
      const auto summary = summary_of(fd);
      if (!summary) return std::unexpected(summary.error());
      if (summary->num_fences <= room_) break;
      room_ = summary->num_fences;
      many_.reset(new (std::nothrow) sync_fence_info[room_]);
      if (!many_) return std::unexpected(unreadable(ENOMEM, fd));
      count = fill(fd, {many_.get(), room_});
    }
    if (count < 0) return std::unexpected(unreadable(-count, fd));
    return std::span<const sync_fence_info>(many_.get(), static_cast<std::size_t>(count));
  }

 private:
  /// The number of parts, or -errno; -EINVAL if they do not fit.
  static int fill(int fd, std::span<sync_fence_info> parts) noexcept {
    sync_file_info info{};
    info.num_fences = static_cast<__u32>(parts.size());
    info.sync_fence_info = reinterpret_cast<std::uintptr_t>(parts.data());
    const int result = sys::ioctl(fd, SYNC_IOC_FILE_INFO, &info);
    return result < 0 ? result : static_cast<int>(std::min<std::size_t>(info.num_fences, parts.size()));
  }

  std::array<sync_fence_info, 16> some_;
  std::unique_ptr<sync_fence_info[]> many_;
  std::size_t room_ = some_.size();
};

/// The combined state of the parts.
struct Outcome {
  std::size_t active = 0;  ///< parts that have not ended
  int error = 0;           ///< of the first part that failed

  [[nodiscard]] bool has_ended() const noexcept { return active == 0; }
};

/// Read from the parts, because the kernel's own summary of a merged fence loses errors.
Result<Outcome> outcome_of(int fd) noexcept {
  Parts parts;
  const auto all = parts.read(fd);
  if (!all) return std::unexpected(all.error());
  Outcome outcome;
  for (const sync_fence_info& part : *all) {
    if (part.status == 0) ++outcome.active;
    if (part.status < 0 && outcome.error == 0) outcome.error = -part.status;
  }
  return outcome;
}

Error failure_of(int error, const char* operation) noexcept {
  return Error::os(error, operation).detail("the fence ended with an error: its device failed, reset or went away");
}

std::string text(const char (&field)[32]) { return {field, ::strnlen(field, sizeof field)}; }

}  // namespace

Result<Fence> Fence::adopt(Fd& fd) noexcept {
  const auto summary = summary_of(fd.get());
  if (summary) return Fence(std::move(fd));
  Error error = summary.error();
  if (error.code() == EBADF) return std::unexpected(error.detail("descriptor %d is not open", fd.get()));
  // ENOTTY means that it is not a sync_file; some drivers return EINVAL for ioctls that they do not know.
  if (error.code() != ENOTTY && error.code() != EINVAL) return std::unexpected(error);
  return std::unexpected(Error::os(EINVAL, "SYNC_IOC_FILE_INFO").detail("descriptor %d is not a sync_file", fd.get()));
}

Result<Fence> Fence::dup_of(int fd) noexcept {
  auto copy = Fd::dup_of(fd);
  if (!copy) return std::unexpected(copy.error());
  return adopt(*copy);
}

Result<Fence> Fence::dup() const noexcept {
  if (is_null()) return Fence();
  const int copy = sys::dup(fd_.get());
  if (copy < 0)
    return std::unexpected(Error::os(-copy, "fcntl(F_DUPFD_CLOEXEC)").detail("of descriptor %d", fd_.get()));
  return Fence(Fd::adopt(copy));
}

Result<Fence::State> Fence::state() const noexcept {
  if (is_null()) return State::signalled;
  const auto state = outcome_of(fd_.get());
  if (!state) return std::unexpected(state.error());
  if (state->error != 0) return State::failed;
  return state->has_ended() ? State::signalled : State::active;
}

Result<bool> Fence::has_ended() const noexcept {
  if (is_null()) return true;
  const auto summary = summary_of(fd_.get());
  if (!summary) return std::unexpected(summary.error());
  return summary->status != 0;
}

Result<void> Fence::wait(Deadline deadline, const Cancel* cancel) const noexcept {
  if (is_null()) return {};
  auto state = outcome_of(fd_.get());
  if (state && !state->has_ended()) {
    const int ready = detail::wait(fd_.get(), POLLIN, deadline, cancel);
    if (ready == -ECANCELED) return std::unexpected(Error::os(ECANCELED, "Fence::wait").detail("not signalled yet"));
    if (ready < 0) return std::unexpected(Error::os(-ready, "poll"));
    if (ready == 0) return std::unexpected(Error::os(ETIMEDOUT, "Fence::wait").detail("not signalled by the deadline"));
    state = outcome_of(fd_.get());  // poll does not report how it ended
  }
  if (!state) return std::unexpected(state.error());
  if (state->error != 0) return std::unexpected(failure_of(state->error, "Fence::wait"));
  return {};
}

Result<std::vector<FenceInfo>> Fence::info() const {
  std::vector<FenceInfo> result;
  if (is_null()) return result;
  Parts parts;
  const auto all = parts.read(fd_.get());
  if (!all) return std::unexpected(all.error());
  result.reserve(all->size());
  for (const sync_fence_info& part : *all) {
    result.push_back({.driver = text(part.driver_name),
                      .timeline = text(part.obj_name),
                      .status = part.status,
                      .timestamp = std::chrono::nanoseconds(part.timestamp_ns)});
  }
  return result;
}

Result<void> Fence::hint_deadline(Deadline deadline) const noexcept {
  if (is_null()) return {};
  const auto since_boot = std::chrono::nanoseconds(deadline.time().time_since_epoch()).count();
  uapi::sync_set_deadline argument{.deadline_ns = since_boot > 0 ? static_cast<__u64>(since_boot) : 0, .pad = 0};
  const int result = sys::ioctl(fd_.get(), SYNC_IOC_SET_DEADLINE, &argument);
  if (result == -ENOTTY) {
    return std::unexpected(
        Error::os(EOPNOTSUPP, "SYNC_IOC_SET_DEADLINE").detail("this kernel does not know it; Linux 6.6 and later do"));
  }
  if (result < 0) return std::unexpected(Error::os(-result, "SYNC_IOC_SET_DEADLINE"));
  return {};
}

namespace {

/// The result of merging some of the fences: nothing, one of the inputs, or a new sync_file.
struct Merged {
  int fd = -1;
  Fd own;  ///< of a new sync_file
  std::size_t inputs = 0;
  std::size_t parts = 0;  ///< of the inputs, when they were looked at; the kernel merges parts of one timeline
};

/// An input, or nothing if it has signalled.
Result<Merged> look_at(const Fence& fence) noexcept {
  if (fence.is_null()) return Merged{};
  const auto state = outcome_of(fence.poll_fd());
  if (!state) return std::unexpected(state.error());
  if (state->error != 0) return std::unexpected(failure_of(state->error, "merge"));
  if (state->has_ended()) return Merged{};
  return Merged{.fd = fence.poll_fd(), .own = {}, .inputs = 1, .parts = state->active};
}

/// Merges each half first: the kernel copies every part in each call, so merging sets of equal size is the least work.
Result<Merged> merge_all(std::span<const Fence> fences) noexcept {
  if (fences.empty()) return Merged{};
  if (fences.size() == 1) return look_at(fences.front());
  auto left = merge_all(fences.first(fences.size() / 2));
  if (!left) return left;
  auto right = merge_all(fences.subspan(fences.size() / 2));
  if (!right || left->inputs == 0) return right;
  if (right->inputs == 0) return left;

  sync_merge_data data{};
  std::string_view("dmaflow").copy(data.name, sizeof data.name - 1);
  data.fd2 = right->fd;
  if (const int result = sys::ioctl(left->fd, SYNC_IOC_MERGE, &data); result < 0) {
    return std::unexpected(Error::os(-result, "SYNC_IOC_MERGE").detail("descriptors %d and %d", left->fd, right->fd));
  }
  return Merged{.fd = data.fence,
                .own = Fd::adopt(data.fence),
                .inputs = left->inputs + right->inputs,
                .parts = left->parts + right->parts};
}

/// The kernel leaves out fences that have ended, including those with an error. If the result has fewer parts than the
/// inputs had, one may have failed in between, and its error would be lost.
Result<void> check_for_lost_errors(const Merged& merged, std::span<const Fence> fences) noexcept {
  const auto summary = summary_of(merged.fd);
  if (!summary) return std::unexpected(summary.error());
  if (summary->num_fences >= merged.parts) return {};
  for (const Fence& fence : fences) {
    if (auto input = look_at(fence); !input) return std::unexpected(input.error());
  }
  return {};
}

}  // namespace

Result<Fence> merge(std::span<Fence> fences) noexcept {
  auto merged = merge_all(fences);
  if (!merged) return std::unexpected(merged.error());
  Fence result;
  if (merged->own) {
    if (auto checked = check_for_lost_errors(*merged, fences); !checked) return std::unexpected(checked.error());
    result = Fence::adopt_unchecked(std::move(merged->own));
  } else if (merged->inputs == 1) {
    result = std::move(*std::ranges::find(fences, merged->fd, &Fence::poll_fd));
  }
  for (Fence& fence : fences) fence = Fence();
  return result;
}

}  // namespace dmaflow
