// GEM handles: the numbers by which one DRM file knows its buffers.
//
// The kernel gives the same handle, uncounted, each time a file imports the same dma-buf, so one GEM_CLOSE ends it for
// everybody. Whoever imports into a file therefore has to know of all others who do: a kms::Device, a gbm::Device on
// the same file, the program's own code. They share one registry, which counts the handles and closes each exactly
// once. Files that different programs or devices opened are different files, each with handles and a registry of its
// own. Kernel: drivers/gpu/drm/drm_prime.c, drm_gem_prime_fd_to_handle().
#pragma once

#include <dmaflow/cpp23.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace dmaflow {

/// The handles of one DRM file that are in use now. Held by shared_ptr, by everybody who imports into the file. All
/// members may be called from any thread.
class GemRegistry {
 public:
  /// Holds the file's lock from import to close: nobody else can be given a handle that is about to be closed. Keep it
  /// short, and take no other lock in it. A program that makes GEM calls of its own on a shared file (libgbm's among
  /// them) holds one meanwhile.
  class Session {
   public:
    explicit Session(GemRegistry& registry) : registry_(registry), lock_(registry.mutex_) {}
    /// A handle for a dma-buf, or 0 and -errno in @p error: -ENODEV (the file is gone, or its driver takes no such
    /// memory), -EBADF, -EINVAL, those of the driver. Release each one got.
    [[nodiscard]] std::uint32_t import(int dma_buf, int& error);
    /// Counts a handle the kernel made new (a dumb buffer's), or one more use of a known one.
    void add(std::uint32_t handle) { registry_.add(handle); }
    /// Ends one use. The last one closes the handle, unless somebody holds it.
    void release(std::uint32_t handle) noexcept;

    /// A handle that @p owner (its address is its name; nullptr is the program itself) closes, not we. False, and
    /// nothing is changed, where another owner holds it: each would close it under the other's feet.
    [[nodiscard]] bool hold(std::uint32_t handle, const void* owner);
    /// Ends one hold: the owner has closed the handle, or still has it by a hold of its own.
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

  /// A handle that the program itself closes. A handle of a bo that GBM has imported is closed by GBM, with the bo: it
  /// is no use to keep that one.
  void keep(std::uint32_t handle);
  /// Takes that back: the program has closed it, or will.
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
