// GEM handles: the numbers by which one DRM file identifies its buffers.
//
// The kernel returns the same handle, without counting references, each time a file imports the same dma-buf, so one
// GEM_CLOSE ends it for all users. Therefore all users that import into one file must cooperate: a kms::Device, a
// gbm::Device on the same file, the program's own code. They share one registry, which counts the handles and closes
// each exactly once. Files that different programs or devices opened are different files, each with its own handles and
// its own registry. Kernel: drivers/gpu/drm/drm_prime.c, drm_gem_prime_fd_to_handle().
#pragma once

#include <dmaflow/cpp23.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace dmaflow {

/// The handles of one DRM file that are in use now. Held by shared_ptr, by every user that imports into the file. All
/// members may be called from any thread.
class GemRegistry {
 public:
  /// Holds the file's lock from import to close: no other user can get a handle that is about to be closed. Keep it
  /// short, and take no other lock meanwhile. A program that makes its own GEM calls on a shared file (libgbm's
  /// included) holds a Session during them.
  class Session {
   public:
    explicit Session(GemRegistry& registry) : registry_(registry), lock_(registry.mutex_) {}
    /// A handle for a dma-buf, or 0 and -errno in @p error: -ENODEV (the file is closed, or its driver does not take
    /// such memory), -EBADF, -EINVAL, those of the driver. Release each handle obtained.
    [[nodiscard]] std::uint32_t import(int dma_buf, int& error);
    /// Counts a handle the kernel made new (a dumb buffer's), or one more use of a known one.
    void add(std::uint32_t handle) { registry_.add(handle); }
    /// Ends one use. The last one closes the handle, unless it is held.
    void release(std::uint32_t handle) noexcept;

    /// Marks a handle that @p owner closes (identified by its address; nullptr is the program itself), not the
    /// registry. False, and nothing is changed, if another owner holds it: each would close it while the other uses it.
    [[nodiscard]] bool hold(std::uint32_t handle, const void* owner);
    /// Ends one hold: the owner has closed the handle, or still has it through another hold of its own.
    void forget(std::uint32_t handle) noexcept;

   private:
    GemRegistry& registry_;
    std::unique_lock<std::mutex> lock_;
  };

  /// For a DRM file that stays open until detach() or the last use. Make one per file.
  [[nodiscard]] static std::shared_ptr<GemRegistry> create(int fd);
  GemRegistry(const GemRegistry&) = delete;
  GemRegistry& operator=(const GemRegistry&) = delete;

  /// The file is about to be closed, and all handles with it: imports fail with ENODEV from now on.
  void detach() noexcept;

  /// A handle that the program itself closes. GBM closes the handle of a bo that it imported, with the bo: such a
  /// handle should not be kept.
  void keep(std::uint32_t handle);
  /// Undoes that: the program has closed it, or will.
  void forget(std::uint32_t handle) noexcept;

 private:
  struct Entry {
    std::uint32_t handle = 0;
    std::uint32_t uses = 0;       // ours: closed with the last
    std::uint32_t holds = 0;      // the owner's: closed by it
    const void* owner = nullptr;  // while holds > 0
  };
  explicit GemRegistry(int fd) noexcept : fd_(fd) {}
  [[nodiscard]] Entry* find(std::uint32_t handle) noexcept;
  Entry& entry_of(std::uint32_t handle);
  void add(std::uint32_t handle) { ++entry_of(handle).uses; }
  void end_hold(std::uint32_t handle) noexcept;
  void remove(const Entry& entry) noexcept;

  std::mutex mutex_{};
  std::vector<Entry> entries_{};
  int fd_;
};

}  // namespace dmaflow
