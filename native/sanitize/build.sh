# To be sourced from the repository's root: how the engine is compiled for a sanitizer.
#     build_engine BUILD_FOLDER COMPILER FLAG...    leaves the objects' names in the array `objects`
build_engine() {
    local build=$1 compiler=$2 flags=(-std=c++20 -g -fno-omit-frame-pointer -ffp-contract=off -Inative -Inative/engine "${@:3}")
    local sources=(native/engine/{codebook,container,crc32,dispatch,image,image_conv,run,threads}.cpp native/engine/kernels/portable{,_planes,_sparse4}.cpp)
    if [[ $(uname -m) == x86_64 ]]; then
        flags+=(-DDYADIQ_X86)
        sources+=(native/engine/kernels/{avx2,avxvnni,avx512vnni256,avx512vnni,avx512vnni_binary,avx512vnni_conv,avx512vnni_depthwise,avx512vnni_planes,avx512vnni_sparse4,avx512vnni_winograd,avx512vnni_winograd1d}.cpp
            native/engine/kernels/avx512vnni_{sparse4,tiles}.S)
    elif [[ $(uname -m) == aarch64 ]]; then
        flags+=(-DDYADIQ_AARCH64)
        sources+=(native/engine/kernels/{neon,neondot}.cpp)
    fi
    mkdir -p "$build"
    objects=()
    local source more
    for source in "${sources[@]}"; do
        more=()
        case $(basename "$source") in
            avx2.cpp) more=(-mavx2 -mfma) ;;
            avxvnni.cpp) more=(-mavx2 -mfma -mavxvnni) ;;
            avx512vnni256.cpp) more=(-mavx2 -mfma -mavx512vl -mavx512vnni) ;;
            avx512vnni_binary.cpp) more=(-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vpopcntdq) ;;
            avx512vnni*.cpp) more=(-mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni) ;;
            neondot.cpp) more=(-march=armv8.2-a+dotprod) ;;
        esac
        objects+=("$build/$(basename "$source").o")
        if [[ $source == *.S ]]; then
            c++ -c "$source" -o "${objects[-1]}"
        else
            "$compiler" "${flags[@]}" "${more[@]}" -c "$source" -o "${objects[-1]}"
        fi
    done
}
