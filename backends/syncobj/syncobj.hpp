// What the parts of a timeline share: the DRM file and one handle in it.
#pragma once

#include "uapi/drm_syncobj.hpp"

#include <dmaflow/timeline.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

namespace dmaflow::detail {

/// Something that a kernel may support, which only trying shows: the refusal is the same EINVAL as for a point that is
/// not submitted.
enum class Ability : std::uint8_t { untried, present, absent };

struct SyncobjFile {
  SyncobjFile(Fd file, std::string device) noexcept : fd(std::move(file)), name(std::move(device)) {}
  ~SyncobjFile();
  SyncobjFile(const SyncobjFile&) = delete;
  SyncobjFile& operator=(const SyncobjFile&) = delete;

  /// An Error of this device for a sys:: call that returned -errno; the detail says what to do.
  [[nodiscard]] Error error(int negative_errno, const char* operation, std::uint64_t point = 0) const noexcept;

  Fd fd;
  std::string name;
  bool timelines = false;
  std::atomic<Ability> point_fences = Ability::untried;  ///< sync_file import and export at a point (kernel 6.16)
  std::atomic<bool> eventfds = true;                     ///< until refused (kernel 6.6)
  std::atomic<bool> hints = true;

  /// A binary syncobj for conversions between points and sync_files before kernel 6.16; 0 until first needed.
  std::mutex scratch_mutex;
  std::uint32_t scratch = 0;
};

struct Syncobj {
  Syncobj(std::shared_ptr<SyncobjFile> drm_file, std::uint32_t number) noexcept
      : file(std::move(drm_file)), handle(number) {}
  ~Syncobj();
  Syncobj(const Syncobj&) = delete;
  Syncobj& operator=(const Syncobj&) = delete;

  [[nodiscard]] Error error(int negative_errno, const char* operation, std::uint64_t point = 0) const noexcept {
    return file->error(negative_errno, operation, point);
  }

  std::shared_ptr<SyncobjFile> file;
  std::uint32_t handle;
  /// It may contain fences that can fail. Once set, it stays set.
  mutable std::atomic<bool> foreign = false;
};

/// For waits for several points: the syncobj that a point belongs to.
struct PointAccess {
  static const Syncobj* object(const TimelinePoint& point) noexcept { return point.object_.get(); }
};

/// The error of every call on a moved-from Timeline or an empty TimelinePoint.
[[nodiscard]] Error no_timeline() noexcept;

Result<void> signal(const Syncobj& object, std::uint64_t point) noexcept;
Result<std::uint64_t> query(const Syncobj& object, std::uint32_t flags) noexcept;
Result<Fence> export_fence(const Syncobj& object, std::uint64_t point) noexcept;
Result<void> import_fence(const Syncobj& object, std::uint64_t point, const Fence& fence) noexcept;
Result<void> notify(const Syncobj& object, std::uint64_t point, int eventfd, bool available) noexcept;
Result<void> wait(const Syncobj& object, std::uint64_t point, Deadline deadline, const WaitOptions& options) noexcept;

/// An address as the kernel's structures carry it.
inline std::uint64_t address_of(const void* pointer) noexcept { return reinterpret_cast<std::uint64_t>(pointer); }

}  // namespace dmaflow::detail
