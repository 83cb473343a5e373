// GBM: memory from a GPU's or display's own driver, by what it is to be used for, as Mesa's libgbm gives it out.
//
//     auto gpu = gbm::Device::open("/dev/dri/card0");      // a unique_ptr
//     auto buffers = (*gpu)->allocator().allocate({.size = {1280, 720}, .format = formats::xrgb8888});
//
// A gbm::Device has a DRM file of its own, so its memory handles are nobody else's. A program that has a gbm_device
// already has that adopted, with the GEM registry of its file. One thread uses a device; buffers that were imported may
// end in any thread. libgbm's calls are made with the file's GEM lock held, one at a time; a program that calls libgbm
// on an adopted gbm_device from another thread holds a GemRegistry::Session meanwhile.
//
// Modifiers: what is asked for by a list and answered by the driver is stated in the layout. A driver that has no
// modifiers answers INVALID; then a buffer is LINEAR only where GBM was told to make it linear (GBM_BO_USE_LINEAR,
// "Buffer is linear, i.e. not tiled"), and else implicit. Nothing else becomes LINEAR.
//
// libgbm and the drivers under it may print to stderr when something fails. Library: libgbm 21.1 or later (gbm.h).
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/gem.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct gbm_bo;      // NOLINT(readability-identifier-naming): libgbm's name
struct gbm_device;  // NOLINT(readability-identifier-naming): libgbm's name

namespace dmaflow::gbm {

/// What a driver says that it can do with a format. Whether it can is known by allocating: virtio-gpu says yes to R8
/// and makes none.
struct FormatUse {
  PixelFormat format;
  bool scanout = false;  ///< a display may show it
  bool render = false;   ///< the GPU may draw into it
  bool linear = false;   ///< also where it is to be linear
  friend bool operator==(const FormatUse&, const FormatUse&) = default;
};

struct Options {
  std::string directory = "/dev/dri";  ///< where the nodes are, for the search
};

/// One gbm_device.
class Device {
 public:
  /// Opens a node, primary (cardN) or render (renderDN). An empty path: the first that makes a small buffer, primary
  /// nodes first. Of a primary node that has no master, whoever opens it becomes that; it is given up again at once,
  /// so that a display program can have it. Errors: ENOENT (no such node; the error lists those there are), EACCES
  /// (permission: names the group), ENOTTY (not a DRM device), ENODEV (no node works: the error says what each
  /// answered), EBUSY (mastership cannot be given up), and what libgbm answers where it has no driver for the device.
  [[nodiscard]] static Result<std::unique_ptr<Device>> open(const std::string& path = {}, const Options& options = {});
  /// Uses a gbm_device of somebody else's, who destroys it after this object, or after detach(). @p gem is the registry
  /// of its DRM file: kms::Device::gem() where that device has the file, else GemRegistry::create() with its
  /// descriptor. Errors: EINVAL (either is missing), ENOTTY.
  [[nodiscard]] static Result<std::unique_ptr<Device>> adopt(gbm_device* device, std::shared_ptr<GemRegistry> gem);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  /// Ends everything made here: imported bos, and the gbm_device and its file where they are our own. Buffers that
  /// were allocated stay. Afterwards calls fail with ENODEV.
  void detach() noexcept;

  [[nodiscard]] std::string_view name() const noexcept;     ///< "/dev/dri/card0 (virtio_gpu)"
  [[nodiscard]] std::string_view driver() const noexcept;   ///< the kernel's: "virtio_gpu"
  [[nodiscard]] std::string_view backend() const noexcept;  ///< libgbm's: "drm", "nvidia"; empty once detached
  [[nodiscard]] int fd() const noexcept;                    ///< the DRM file; -1 once detached
  /// For GBM and EGL calls of the program's own; nullptr once detached.
  [[nodiscard]] gbm_device* get() const noexcept;
  [[nodiscard]] std::shared_ptr<GemRegistry> gem() const noexcept;

  /// Those formats of known_formats() of which the driver says that it makes them, in that order. Errors: ENODEV.
  [[nodiscard]] Result<std::vector<FormatUse>> formats() const;
  /// How many planes a buffer of this format has: more than the format's own with some vendors' modifiers. Errors:
  /// EINVAL (the driver has no such modifier for it), ENODEV.
  [[nodiscard]] Result<std::uint32_t> plane_count(PixelFormat format, Modifier modifier) const;

  /// Named "gbm". What it does with a request:
  ///   - Modifiers are tried in the request's order: the explicit ones as one list, of which the driver chooses,
  ///   INVALID
  ///     as an allocation without modifiers. Where the driver does not know modifiers, LINEAR is had by
  ///     GBM_BO_USE_LINEAR.
  ///   - Usage: scanout and render are told the driver (GBM_BO_USE_SCANOUT, GBM_BO_USE_RENDERING); cpu and capture have
  ///     no word in GBM: ask for LINEAR.
  ///   - Constraints: strides and sizes of LINEAR buffers are met by asking for a wider or higher one, where the
  ///   driver's
  ///     own do not do. All else that the driver's answer does not meet is refused, and so is contiguous memory,
  ///     because GBM cannot tell.
  /// The bo is destroyed as soon as its planes are exported: the dma-bufs keep the memory. Errors of allocate(): EINVAL
  /// (as check_request() says; a format, modifier, usage or constraint that the driver does not meet; an answer of the
  /// driver that does not fit its dma-bufs), EACCES (a render node whose driver has no memory of its own to give),
  /// ENOMEM, ENODEV (detached), what libgbm and the export answer.
  [[nodiscard]] Allocator& allocator() noexcept;

  /// The buffer as a bo of this device, imported at the first call and found again without a system call. The bo
  /// belongs to the buffer: it is destroyed with it, or with this device, whichever goes first. The layout says what it
  /// is: of an import without modifiers gbm_bo_get_modifier() answers INVALID, for LINEAR ones too. Errors: ENODEV
  /// (detached; the driver takes no such memory), EINVAL (no such format), ENOSYS, EINVAL (no such modifier), EBUSY
  /// (another part of the program holds this buffer's handle in the same DRM file, and GBM would close it under its
  /// feet: use that, or another file), those of DRM_IOCTL_PRIME_FD_TO_HANDLE.
  [[nodiscard]] Result<gbm_bo*> import(const Buffer& buffer);

  struct Impl;

 private:
  explicit Device(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::gbm
