// GBM: memory from a GPU's or display's own driver, allocated by its intended use through Mesa's libgbm.
//
//     auto gpu = gbm::Device::open("/dev/dri/card0");      // a unique_ptr
//     auto buffers = (*gpu)->allocator().allocate({.size = {1280, 720}, .format = formats::xrgb8888});
//
// A gbm::Device has its own DRM file, so it shares its memory handles with nothing else. A program that already has a
// gbm_device adopts it, with the GEM registry of its file. One thread uses a device; imported buffers may be destroyed
// in any thread. libgbm's calls are made with the file's GEM lock held, one at a time; a program that calls libgbm on
// an adopted gbm_device from another thread holds a GemRegistry::Session meanwhile.
//
// Modifiers: if a list was requested, the layout has the modifier that the driver answers. A driver that has no
// modifiers answers INVALID; then a buffer is LINEAR only if GBM was told to make it linear (GBM_BO_USE_LINEAR, "Buffer
// is linear, i.e. not tiled"), and implicit otherwise. Nothing else becomes LINEAR.
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

/// What a driver claims to support for a format. Only an allocation shows whether it does: virtio-gpu claims to support
/// R8 but cannot make such buffers.
struct FormatUse {
  PixelFormat format;
  bool scanout = false;  ///< a display may show it
  bool render = false;   ///< the GPU may draw into it
  bool linear = false;   ///< also as a linear buffer
  friend bool operator==(const FormatUse&, const FormatUse&) = default;
};

struct Options {
  std::string directory = "/dev/dri";  ///< where the nodes are, for the search
};

/// One gbm_device.
class Device {
 public:
  /// Opens a node, primary (cardN) or render (renderDN). An empty path: the first that makes a small buffer, primary
  /// nodes first. Opening a primary node that has no master makes the opener its master; mastership is dropped again at
  /// once, so that a display program can have it. Errors: ENOENT (no such node; the error lists those there are),
  /// EACCES (permission: names the group), ENOTTY (not a DRM device), ENODEV (no node works: the error has the answer
  /// of each), EBUSY (mastership cannot be dropped), and libgbm's own error if it has no driver for the device.
  [[nodiscard]] static Result<std::unique_ptr<Device>> open(const std::string& path = {}, const Options& options = {});
  /// Uses an existing gbm_device; its owner must destroy it after this object, or after detach(). @p gem is the
  /// registry of its DRM file: kms::Device::gem() if that device has the file, else GemRegistry::create() with its
  /// descriptor. Errors: EINVAL (either is missing), ENOTTY.
  [[nodiscard]] static Result<std::unique_ptr<Device>> adopt(gbm_device* device, std::shared_ptr<GemRegistry> gem);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  /// Destroys everything made here: imported bos, and the gbm_device and its file if this object owns them. Allocated
  /// buffers stay valid. Afterwards calls fail with ENODEV.
  void detach() noexcept;

  [[nodiscard]] std::string_view name() const noexcept;     ///< "/dev/dri/card0 (virtio_gpu)"
  [[nodiscard]] std::string_view driver() const noexcept;   ///< the kernel's: "virtio_gpu"
  [[nodiscard]] std::string_view backend() const noexcept;  ///< libgbm's: "drm", "nvidia"; empty once detached
  [[nodiscard]] int fd() const noexcept;                    ///< the DRM file; -1 once detached
  /// For the program's own GBM and EGL calls; nullptr once detached.
  [[nodiscard]] gbm_device* get() const noexcept;
  [[nodiscard]] std::shared_ptr<GemRegistry> gem() const noexcept;

  /// The formats of known_formats() that the driver claims to support, in that order. Errors: ENODEV.
  [[nodiscard]] Result<std::vector<FormatUse>> formats() const;
  /// How many planes a buffer of this format has: more than the format's own with some vendors' modifiers. Errors:
  /// EINVAL (the driver has no such modifier for it), ENODEV.
  [[nodiscard]] Result<std::uint32_t> plane_count(PixelFormat format, Modifier modifier) const;

  /// Named "gbm". How it handles a request:
  ///   - Modifiers are tried in the request's order: the explicit ones as one list from which the driver chooses,
  ///     INVALID as an allocation without modifiers. If the driver does not support modifiers, LINEAR is allocated
  ///     with GBM_BO_USE_LINEAR.
  ///   - Usage: scanout and render are passed to the driver (GBM_BO_USE_SCANOUT, GBM_BO_USE_RENDERING); cpu and
  ///     capture have no equivalent in GBM: request LINEAR.
  ///   - Constraints: if the driver's own strides and sizes of a LINEAR buffer do not meet them, a wider or higher
  ///     buffer is requested. If the result still does not meet the request, it is refused, and so is a request for
  ///     contiguous memory, because GBM cannot tell.
  /// The bo is destroyed as soon as its planes are exported: the dma-bufs keep the memory. Errors of allocate(): EINVAL
  /// (as check_request() says; a format, modifier, usage or constraint that the driver does not meet; an answer of the
  /// driver that does not fit its dma-bufs), EACCES (a render node whose driver has no memory of its own to give),
  /// ENOMEM, ENODEV (detached), what libgbm and the export answer.
  [[nodiscard]] Allocator& allocator() noexcept;

  /// The buffer as a bo of this device, imported at the first call and found again without a system call. The bo
  /// belongs to the buffer: it is destroyed with the buffer or with this device, whichever goes first. Use the layout
  /// for its modifier: after an import without modifiers gbm_bo_get_modifier() answers INVALID, even for LINEAR
  /// buffers. Errors: ENODEV (detached; the driver takes no such memory), EINVAL (no such format), ENOSYS, EINVAL (no
  /// such modifier), EBUSY (another part of the program holds this buffer's handle in the same DRM file, and GBM would
  /// close it while it is in use: use that part's import, or another file), those of DRM_IOCTL_PRIME_FD_TO_HANDLE.
  [[nodiscard]] Result<gbm_bo*> import(const Buffer& buffer);

  struct Impl;

 private:
  explicit Device(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::gbm
