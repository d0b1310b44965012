/* datafile.c
 *
 * FUSE counts as a network file system: sshfs, GlusterFS and the like cannot be told from a local
 * one, and neither shared maps nor locks can be relied on there. */
#include "datafile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

const char *tarnp_network_filesystem(uint64_t type)
{
    static const struct {
        uint64_t type;
        const char *name;
    } list[] = {
        {0x6969, "NFS"},       {0x517B, "SMB"},      {0xFF534D42, "CIFS"},   {0xFE534D42, "SMB2"},
        {0x01021997, "9P"},    {0x65735546, "FUSE"}, {0x0BD00BD0, "Lustre"}, {0x00C36400, "Ceph"},
        {0x5346414F, "AFS"},   {0x47504653, "GPFS"}, {0x73757245, "Coda"},   {0x19830326, "BeeGFS"},
        {0x7461636F, "OCFS2"}, {0x01161970, "GFS2"}, {0x564C, "NCP"},        {0xAAD7AAEA, "PanFS"}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (list[i].type == (type & 0xFFFFFFFF))
            return list[i].name;
    return NULL;
}

tarn_status tarnp_datafile_place(const char *folder, tarn_error *err)
{
    struct statfs info;
    if (statfs(folder, &info) != 0)
        return tarni_fail_errno(err, errno, "%s", folder);
    const char *name = tarnp_network_filesystem((uint64_t)info.f_type);
    if (name)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "%s lies on a %s file system, which does not keep a store safe", folder,
                          name);
    return TARN_OK;
}

tarn_status tarnp_datafile_head(const char *file, const tarn_allocator *allocator, tarn_error *err)
{
    enum { TRIES = 5, READ_BYTES = 65536 + 512 };
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", file);
    uint8_t *head = NULL;
    tarn_status status = tarni_alloc(allocator, READ_BYTES, 1, &head, err);
    for (int i = 0; status == TARN_OK && i < TRIES; i++) {
        ssize_t n = pread(fd, head, READ_BYTES, 0);
        uint32_t page_bytes;
        struct stat info;
        if (n < 0 || fstat(fd, &info) != 0)
            status = tarni_fail_errno(err, errno, "%s", file);
        else
            status = tarnp_structure_check_head(head, (size_t)n, (uint64_t)info.st_size,
                                                &page_bytes, err);
        if (status == TARN_OK)
            break;
        if (i + 1 < TRIES && status == TARN_E_CORRUPT)
            status = TARN_OK;
    }
    tarni_free(allocator, head);
    close(fd);
    return status;
}

tarn_status tarnp_datafile_tree(const char *path, uint64_t txn_id, uint64_t pages_max,
                                const tarn_allocator *allocator, tarnp_structure_result *out,
                                tarn_error *err)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tarni_fail_errno(err, errno, "%s", path);
    tarn_status status = TARN_OK;
    void *file = MAP_FAILED;
    if (fstat(fd, &info) == 0)
        file = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED)
        status = tarni_fail_errno(err, errno, "%s", path);
    close(fd);
    if (status != TARN_OK)
        return status;
    status = tarnp_structure_check_tree(file, (size_t)info.st_size, txn_id, pages_max, allocator,
                                        out, err);
    munmap(file, (size_t)info.st_size);
    return status;
}
