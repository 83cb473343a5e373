// Where the pixels lie: the size, format, modifier and planes of a buffer, checked before any device sees them.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/format.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace dmaflow {

/// The widest and tallest frame dmaflow handles, in pixels; far above what any device takes today and small enough
/// that no arithmetic on it overflows 64 bits.
inline constexpr std::uint32_t max_dimension = 16384;

/// In pixels.
struct Size {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  friend constexpr bool operator==(Size, Size) = default;
};

/// In pixels; the origin is the top left corner.
struct Rect {
  std::int32_t x = 0;
  std::int32_t y = 0;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  friend constexpr bool operator==(Rect, Rect) = default;
};

/// "1280x720" to a Size. EINVAL if it is not two decimal numbers between 1 and max_dimension.
[[nodiscard]] Result<Size> parse_size(std::string_view text) noexcept;

/// Where one plane lies.
struct PlaneLayout {
  std::uint32_t object = 0;  ///< which of the buffer's dma-bufs
  std::uint32_t offset = 0;  ///< bytes from that dma-buf's start to the first row
  std::uint32_t stride = 0;  ///< bytes from one row to the next; 0 in opaque layouts
  friend constexpr bool operator==(const PlaneLayout&, const PlaneLayout&) = default;
};

/// What an allocator or a device requires of a layout; zeros require nothing. All sizes in bytes.
struct Constraints {
  std::uint32_t stride_alignment = 0;                  ///< every stride a multiple of this (a power of two)
  std::uint32_t offset_alignment = 0;                  ///< every plane's offset a multiple of this (a power of two)
  std::uint32_t size_alignment = 0;                    ///< every object's size a multiple of this
  std::array<std::uint32_t, max_planes> min_stride{};  ///< per plane
  std::array<std::uint64_t, max_planes> min_object_size{};  ///< per object (a camera's sizeimage)
  bool separate_objects = false;                            ///< each plane in a separate dma-buf
  bool contiguous = false;                                  ///< physically contiguous memory
  bool cached = false;                                      ///< the CPU will read it: cached memory preferred

  friend bool operator==(const Constraints&, const Constraints&) = default;
};

/// The constraints that meet both: the larger of each alignment and each minimum size, a size alignment that is a
/// multiple of both, and every flag that either sets.
[[nodiscard]] Constraints merge(const Constraints& a, const Constraints& b) noexcept;

/// The layout of a buffer: a value. Valid only after validate() succeeded for the objects it is used with.
struct Layout {
  Size size{};
  PixelFormat format{};
  Modifier modifier{};
  std::uint32_t plane_count = 0;  ///< 1 for opaque layouts: the bytes
  std::array<PlaneLayout, max_planes> planes{};
  std::uint64_t opaque_bytes = 0;  ///< capacity in bytes if the format is opaque or vendor-arranged; else 0

  /// The linear layout of a format the table knows: rows after rows, planes after planes, as tight as the
  /// constraints allow. Strides of planes in one object keep V4L2's proportion (YUV420's chroma half of luma's),
  /// because V4L2 reports only luma's. Errors: EINVAL (size 0 or over max_dimension; format unknown to the table or
  /// opaque; an alignment that is no power of two; a stride or offset beyond 32 bits).
  [[nodiscard]] static Result<Layout> linear(PixelFormat format, Size size,
                                             const Constraints& constraints = {}) noexcept;
  /// A layout of compressed bytes (MJPEG, H264): one plane, no rows. EINVAL if bytes is 0.
  [[nodiscard]] static Result<Layout> opaque(PixelFormat format, Size size, std::uint64_t bytes) noexcept;

  /// Bytes each object needs for this layout with these constraints, in 64 bits; unused entries are 0.
  [[nodiscard]] std::array<std::uint64_t, max_planes> object_sizes(const Constraints& constraints = {}) const noexcept;
  /// How many objects the planes name: the highest index plus one.
  [[nodiscard]] std::uint32_t object_count() const noexcept;
  /// Bytes of pixels in one row of a plane, and so its smallest stride; 0 for formats the table does not know.
  /// Subsampled widths are rounded up. For packed samples (NV15, P030) only the used part of the last block counts, as
  /// in the kernel; for pixels that share their chroma (YUYV) the whole block counts.
  [[nodiscard]] std::uint32_t row_bytes(std::uint32_t plane) const noexcept;
  /// Rows of a plane, subsampled heights rounded up.
  [[nodiscard]] std::uint32_t rows(std::uint32_t plane) const noexcept;
  /// Bytes of pixels in all planes: the amount that a copy of one frame moves.
  [[nodiscard]] std::uint64_t pixel_bytes() const noexcept;

  /// Checks the whole layout against the sizes of the dma-bufs that it describes: plane count, object indices,
  /// strides, every plane's last byte, in 64-bit arithmetic. Vendor modifiers are checked for offsets only, since
  /// only the vendor knows the rest. Errors: EINVAL, with the plane and both numbers in the detail.
  [[nodiscard]] Result<void> validate(std::span<const std::uint64_t> object_sizes) const noexcept;

  /// "1280x720 XRGB8888 LINEAR stride 5120".
  [[nodiscard]] std::string describe() const;

  friend bool operator==(const Layout&, const Layout&) = default;
};

}  // namespace dmaflow
