#include "handle.h"

tarn_status tarnp_policy_get(tarnp_store *store, tarnp_policy *out, tarn_error *err)
{
    tarnp_txn txn;
    *out = (tarnp_policy){0};
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_policy_load(&txn, out, err);
    tarnp_txn_abort(&txn);
    return status;
}

tarn_status tarnp_policy_set(tarnp_store *store, const tarnp_policy *policy, tarn_error *err)
{
    TARNI_TRY(tarnp_state_codec_check("state_codec", policy->state_codec, err));
    TARNI_TRY(tarnp_state_codec_check("latent_codec", policy->latent_codec, err));
    if (policy->latent_codec > TARNP_STATE_LOSSLESS)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "latent_codec is %d: latents are only kept without loss (%d)",
                          (int)policy->latent_codec, (int)TARNP_STATE_LOSSLESS);
    tarnp_write w;
    tarnp_policy now;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_policy_load(&w.txn, &now, err);
    if (status == TARN_E_CORRUPT && policy->state_codec && policy->latent_codec)
        status = TARN_OK; /* every field is given: this heals it */
    if (policy->state_codec)
        now.state_codec = policy->state_codec;
    if (policy->latent_codec)
        now.latent_codec = policy->latent_codec;
    if (status == TARN_OK)
        status = tarnp_policy_put(&w.txn, &now, err);
    return status == TARN_OK ? tarnp_write_commit(&w, NULL, err) : tarnp_write_abort(&w, status);
}
